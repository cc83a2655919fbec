"""What a store holds, for people and for programs: facts, dataset card, Croissant file."""
