"""Scripts for those who work on AdmitOne."""
