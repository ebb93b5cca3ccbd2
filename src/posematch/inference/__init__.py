"""Files of people in, files of joints out: what ``posematch predict`` does."""
