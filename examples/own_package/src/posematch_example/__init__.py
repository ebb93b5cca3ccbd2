"""A loss, a decoder, a network and a data set of one's own, for posematch."""
