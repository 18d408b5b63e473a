"""Pages for people. They read and change everything through the other services' HTTP API and follow the bus live."""
