"""Data checks of a batch before it trains: statistics, schema, skew, drift; and Transform."""
