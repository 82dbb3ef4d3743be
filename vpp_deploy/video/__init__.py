"""Frames in (files, image folders, resizing), results and pictures out."""
