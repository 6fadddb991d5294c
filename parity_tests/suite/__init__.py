"""Our own ladder, its planted bugs, and the page they are shown on; built on the harness."""
