"""Run folders, read in whatever state they are: one reader for reports, launches, live views and tracking."""
