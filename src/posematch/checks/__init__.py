"""What is wrong with a data set before it is trained on: findings, and the page that shows them."""
