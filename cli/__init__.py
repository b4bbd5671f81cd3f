"""The `flash` command. It talks to the services over the bus; neither torch nor a service is loaded here."""
