"""What a build will need and cost, before anything is spent; and builds that keep to a budget."""
