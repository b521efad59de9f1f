"""Marks on pictures: a label that people see, and one that only a program finds."""
