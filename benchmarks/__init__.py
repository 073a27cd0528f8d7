"""Measurements beside what a user would run instead. Nothing here is a test."""
