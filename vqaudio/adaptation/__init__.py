"""New voices for trained models, whose tokens stay what they are."""
