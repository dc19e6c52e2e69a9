"""What stops a batch that should not train: statistics, schema, skew, drift; and Transform."""
