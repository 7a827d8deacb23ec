"""What jobs left behind, kept in an S3 bucket."""
