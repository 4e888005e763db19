"""What scripts/apply_patch.py is made of: pure edits, plan, commit, build, one module each."""

VERSION = "1.0.0"
