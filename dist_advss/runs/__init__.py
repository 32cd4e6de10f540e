"""Reads run folders in any state. Reports, launches, live views and tracking share this reader."""
