"""From a view's definition: which columns of which base table tell the view's rows that a change there touches.

Promise: no base table that the text names is left out, and a path is given only where every row that a change can
touch is found by it. What is not understood is "no path": a change there has the whole view looked at. Pure.
"""
