"""The small model that comes with Flash, and the script that makes it. README.md is its card."""
