"""What can be known of a configuration before it is imported: names, types, macros, and where each stands."""
