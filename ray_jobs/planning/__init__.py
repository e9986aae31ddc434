"""From what small runs have taken to what large ones will take."""
