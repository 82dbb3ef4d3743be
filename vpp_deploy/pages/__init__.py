"""Pages that ask no network for anything and run no script: a document, its style, its pictures."""
