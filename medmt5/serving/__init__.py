"""The service around a model: requests, batches, answers, one page. It is handed a function and knows no JAX."""
