"""From the sites of data sets to folders that the readers read."""
