"""Audit: what was committed can be proved later, and a change to it is found."""
