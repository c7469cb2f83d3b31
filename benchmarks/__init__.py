"""What waiting, tables and imports cost, as ratios to what others pay in the same run; ``make bench``."""
