"""PostgreSQL: the connection pool and transactions, migrations, and batching of statements."""
