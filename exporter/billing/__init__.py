"""What jobs cost: a site's rates applied to what a job was allocated."""
