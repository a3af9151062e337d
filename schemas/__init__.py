"""What flows through CyclePref: ids, records, cycles, model specs and recipes. No torch and no ray in here."""
