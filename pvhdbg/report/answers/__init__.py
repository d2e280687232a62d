"""The JSON answers of commands that show one thing, each as one named tuple: the document and its schema both follow from it.

A field of type `Hex` is a hexadecimal string; `PartOf` is a part of another schema's document, which has the same form here. What was
not observed is null.
"""
