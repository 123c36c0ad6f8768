"""The judge: grades submissions whose code it never runs itself. ``court.Judge`` decides, ``worker`` runs."""
