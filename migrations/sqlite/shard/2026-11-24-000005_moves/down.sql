DROP TABLE tessera_move_counts;
DROP TABLE tessera_moves;
