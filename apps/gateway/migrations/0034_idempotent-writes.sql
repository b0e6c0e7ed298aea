-- Up Migration

-- An idempotency key keeps the whole answer, so that routes other than that of messages can be answered from it: the
-- status, and the Location where there was one. What gateway.accept stores has the status of its route, and its Location
-- follows from the ids in its answer. `event_id` is the id of the request that had the effect.
alter table gateway.idempotency_keys
  add column status smallint not null default 202,
  add column location text;

-- The key is written before the effect of its transaction, so that others wait for it and not for what it does; the
-- answer is known only after.
grant update (status, location, answer) on gateway.idempotency_keys to signalbox_gateway;

-- Down Migration

revoke update (status, location, answer) on gateway.idempotency_keys from signalbox_gateway;
alter table gateway.idempotency_keys drop column status, drop column location;
