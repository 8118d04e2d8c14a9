DROP TABLE public.users, public.orders, public.products, public.transactions, public.kv;
DROP TABLE tessera_idempotency, tessera_tables;
DROP FUNCTION tessera_enter;
DROP TABLE tessera_slots, tessera_owned, tessera_shard;
DROP FUNCTION tessera_note_owned;
DROP SEQUENCE tessera_version;
