"""What projects have left and how that goes on: the store's balances with what billing makes of them. Asks nobody."""
