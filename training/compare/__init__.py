"""Arms x trials: is one way to begin a network better than another?"""
