"""What each loss does to one heatmap, without a network."""
