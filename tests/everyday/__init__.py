"""What goes wrong on an ordinary day: a table a kind, of what is given and what is right."""
