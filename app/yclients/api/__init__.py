"""The client of the YClients API: requests, paging, rate limit, responses."""
