"""The first page: one view of the fleet as HTML that needs no script, no framework and no other machine.

`page` puts it together, `rows` has the tables, `figures` the words for numbers, `markup` the one way in which text becomes HTML.
"""
