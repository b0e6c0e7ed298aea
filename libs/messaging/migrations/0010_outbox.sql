-- Up Migration

-- The outbox (delivery rules 5–8). Rows live from the commit that made them until the broker has acknowledged them; sent rows
-- are deleted. Nobody touches the table but through the functions below: they belong to signalbox_queue, whose policy
-- sees every tenant's rows, and the services' roles have no grant on it.

create schema messaging;

-- One number for topic and key: the advisory lock, and by its low six bits the relay's slot. Topic names hold no space.
create function messaging.key_hash(p_topic text, p_key text) returns bigint
  language sql immutable parallel safe
  return hashtextextended(p_topic || ' ' || p_key, 0);

create sequence messaging.outbox_id;

create table messaging.outbox (
  tenant      text not null,
  id          bigint not null,
  slot        smallint not null,
  key_hash    bigint not null,
  topic       text not null,
  key         text not null,
  event_id    uuid not null,
  -- The process whose fast path sends the row; null: the relay does.
  writer      uuid,
  headers     jsonb not null,
  value       bytea,
  enqueued_at timestamptz not null default clock_timestamp(),
  primary key (tenant, id),
  -- Kafka takes 1 MiB a record; .retry and .dlq topics take four times that.
  constraint outbox_row_size check (
    coalesce(octet_length(value), 0) + octet_length(headers::text)
      <= case when topic like '%.dlq' or topic like '%.retry' then 3600000 else 900000 end)
);
-- Is there a row of this key, which is its lowest, which keys of a slot wait: all read from here.
create index outbox_key on messaging.outbox (slot, key_hash, id);
-- The rows that were given up are few or none while the broker is there.
create index outbox_given_up on messaging.outbox (slot) where writer is null;

select app.protect_queue_table('messaging.outbox');
grant usage on sequence messaging.outbox_id to signalbox_queue;

-- Takes the locks of these keys, in hash order, so that two batches never wait for each other in a circle. A function
-- that puts rows for several tenants takes the locks of all of them here first. At most 256 keys a transaction: each
-- lock is an entry in the server's lock table.
create function messaging.outbox_lock(p_topics text[], p_keys text[]) returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_hash bigint;
  v_hashes bigint[];
begin
  select array_agg(h order by h) into v_hashes from (
    select distinct messaging.key_hash(u.topic, u.key) as h
    from unnest(p_topics, p_keys) as u(topic, key)) s;
  if cardinality(v_hashes) > 256 then
    raise exception 'outbox_lock: % keys in one transaction, at most 256', cardinality(v_hashes)
      using errcode = 'program_limit_exceeded';
  end if;
  foreach v_hash in array coalesce(v_hashes, '{}') loop
    perform pg_advisory_xact_lock(v_hash);
  end loop;
end $$;

-- One row, by the rules of outbox_put_all, which calls it for what is most often put: three small statements take a
-- quarter of the time of the one for many. With the caller's rights and plan settings.
create function messaging.outbox_put_one(
  p_writer uuid, p_tenant text, p_topic text, p_key text, p_event_id uuid, p_headers jsonb, p_value bytea,
  out id bigint, out fast boolean, out prev_id bigint)
  language plpgsql
as $$
#variable_conflict use_column
declare
  v_hash bigint := messaging.key_hash(p_topic, p_key);
  v_slot smallint := (v_hash & 63)::smallint;
begin
  perform pg_advisory_xact_lock(v_hash);
  select p_writer is not null and not coalesce(bool_or(o.writer is distinct from p_writer), false),
         max(o.id) filter (where o.writer = p_writer)
    into fast, prev_id
    from messaging.outbox o
    where o.slot = v_slot and o.key_hash = v_hash and o.topic = p_topic and o.key = p_key;
  id := nextval('messaging.outbox_id');
  insert into messaging.outbox (tenant, id, slot, key_hash, topic, key, event_id, writer, headers, value)
  values (p_tenant, id, v_slot, v_hash, p_topic, p_key, p_event_id, case when fast then p_writer end, p_headers, p_value);
end $$;
revoke all on function messaging.outbox_put_one from public;
grant execute on function messaging.outbox_put_one to signalbox_queue;

-- Puts rows of several tenants. `fast`: no row of the key by another writer was there, so the process p_writer publishes
-- it; else the row waits for the relay. `prev_id`: the row of the same key and writer before this one, which the process
-- must have queued first, for two of its commits may come back to it out of order. A null p_writer leaves all to the relay.
--
-- The look at the outbox is a statement of its own, after the locks: in one statement with them it would see the
-- snapshot from before the wait, and two writers would both believe that they are alone.
create function messaging.outbox_put_all(
  p_writer uuid, p_tenants text[], p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (ord int, id bigint, fast boolean, prev_id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  -- Planning took longer than running, so the plan is kept; and a plan made while the table was empty must not scan it
  -- when it holds a backlog.
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
  if cardinality(p_topics) = 1 then
    return query select 1, o.id, o.fast, o.prev_id from messaging.outbox_put_one(
      p_writer, p_tenants[1], p_topics[1], p_keys[1], p_event_ids[1], p_headers -> 0, p_values[1]) o;
    return;
  end if;
  perform messaging.outbox_lock(p_topics, p_keys);
  return query
  with input as materialized (
    select u.ord::int as ord, u.tenant, u.topic, u.key, u.event_id, u.val,
           p_headers -> (u.ord::int - 1) as headers, messaging.key_hash(u.topic, u.key) as key_hash
    from unnest(p_tenants, p_topics, p_keys, p_event_ids, p_values)
      with ordinality as u(tenant, topic, key, event_id, val, ord)
  ),
  seen as materialized (
    select k.topic, k.key, s.foreign_row, s.last_own
    from (select distinct i.topic, i.key, i.key_hash from input i) k
    cross join lateral (
      select bool_or(o.writer is distinct from p_writer) as foreign_row,
             max(o.id) filter (where o.writer = p_writer) as last_own
      from messaging.outbox o
      where o.slot = (k.key_hash & 63)::smallint and o.key_hash = k.key_hash and o.topic = k.topic and o.key = k.key
    ) s
  ),
  numbered as materialized (
    select o.*, nextval('messaging.outbox_id') as id
    from (select i.*, p_writer is not null and not coalesce(s.foreign_row, false) as fast, s.last_own
          from input i join seen s on s.topic = i.topic and s.key = i.key order by i.ord) o
  ),
  inserted as (
    insert into messaging.outbox (tenant, id, slot, key_hash, topic, key, event_id, writer, headers, value)
    select n.tenant, n.id, (n.key_hash & 63)::smallint, n.key_hash, n.topic, n.key, n.event_id,
           case when n.fast then p_writer end, n.headers, n.val
    from numbered n
  )
  select n.ord, n.id, n.fast,
         coalesce(lag(n.id) over (partition by n.topic, n.key order by n.ord), n.last_own)
  from numbered n order by n.ord;
end $$;

-- The same for rows of one tenant, which is how the services' own functions use it.
create function messaging.outbox_put(
  p_writer uuid, p_tenant text, p_topics text[], p_keys text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (ord int, id bigint, fast boolean, prev_id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  v_put record;
begin
  if cardinality(p_topics) = 1 then
    v_put := messaging.outbox_put_one(
      p_writer, p_tenant, p_topics[1], p_keys[1], p_event_ids[1], p_headers -> 0, p_values[1]);
    ord := 1;
    id := v_put.id;
    fast := v_put.fast;
    prev_id := v_put.prev_id;
    return next;
    return;
  end if;
  return query select o.ord, o.id, o.fast, o.prev_id from messaging.outbox_put_all(
    p_writer, array_fill(p_tenant, array[cardinality(p_topics)]), p_topics, p_keys, p_event_ids, p_headers, p_values) o;
end $$;

-- Deletes rows that the broker has acknowledged.
create function messaging.outbox_delete(p_tenants text[], p_ids bigint[]) returns bigint
  language sql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  with gone as (
    delete from messaging.outbox o using unnest(p_tenants, p_ids) as u(tenant, id)
    where o.tenant = u.tenant and o.id = u.id returning 1)
  select count(*) from gone
$$;

-- The process gives these keys up, each from p_from_ids on: the rows and all its later ones of the key are the relay's.
-- Under the keys' locks: a put of the same process either comes before (its row is given up too) or sees rows of another
-- writer and takes no fast path.
create function messaging.outbox_give_up(p_writer uuid, p_topics text[], p_keys text[], p_from_ids bigint[])
  returns table (id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
  perform messaging.outbox_lock(p_topics, p_keys);
  return query
  update messaging.outbox o set writer = null
  from unnest(p_topics, p_keys, p_from_ids) as u(topic, key, from_id)
  where o.slot = (messaging.key_hash(u.topic, u.key) & 63)::smallint
    and o.key_hash = messaging.key_hash(u.topic, u.key) and o.topic = u.topic and o.key = u.key
    and o.writer = p_writer and o.id >= u.from_id
  returning o.id;
end $$;

-- Whether rows of the key wait that this process does not send.
create function messaging.outbox_foreign(p_writer uuid, p_topic text, p_key text) returns boolean
  language sql stable security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
  select exists (
    select from messaging.outbox o
    where o.slot = (messaging.key_hash(p_topic, p_key) & 63)::smallint
      and o.key_hash = messaging.key_hash(p_topic, p_key) and o.topic = p_topic and o.key = p_key
      and o.writer is distinct from p_writer)
$$;

-- The rows of one key by others than p_writer, in the order in which they must be sent (delivery rule 19).
create function messaging.outbox_foreign_rows(p_writer uuid, p_topic text, p_key text, p_limit int)
  returns table (tenant text, id bigint, topic text, key text, event_id uuid, headers jsonb, value bytea, enqueued_at timestamptz)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select o.tenant, o.id, o.topic, o.key, o.event_id, o.headers, o.value, o.enqueued_at
  from messaging.outbox o
  where o.slot = (messaging.key_hash(p_topic, p_key) & 63)::smallint
    and o.key_hash = messaging.key_hash(p_topic, p_key) and o.topic = p_topic and o.key = p_key
    and o.writer is distinct from p_writer
  order by o.id limit p_limit
$$;

-- The relay's read: the rows of the stale keys of these slots, each key from its lowest row on and in id order. Stale: a
-- row of the key was given up, or is older than p_older_than_ms. The keys share p_limit, so a long key comes in pieces,
-- always its lowest rows first. Topics in p_not_topics (the broker does not take them now) are left out.
create function messaging.outbox_stale(p_slots smallint[], p_older_than_ms int, p_limit int, p_not_topics text[])
  returns table (tenant text, id bigint, topic text, key text, event_id uuid, headers jsonb, value bytea, enqueued_at timestamptz)
  language plpgsql stable security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
  return query
  with stale as materialized (
    select distinct s.slot, s.key_hash, s.topic, s.key from (
      (select o.slot, o.key_hash, o.topic, o.key from messaging.outbox o
       where o.writer is null and o.slot = any(p_slots) and not (o.topic = any(p_not_topics)) limit p_limit)
      union all
      (select o.slot, o.key_hash, o.topic, o.key from messaging.outbox o
       where o.slot = any(p_slots) and o.enqueued_at < clock_timestamp() - make_interval(secs => p_older_than_ms / 1000.0)
         and not (o.topic = any(p_not_topics))
       limit p_limit)) s
  ),
  share as materialized (select greatest(p_limit / greatest(count(*), 1), 4) as rows from stale)
  select r.tenant, r.id, r.topic, r.key, r.event_id, r.headers, r.value, r.enqueued_at
  from stale k
  cross join lateral (
    select x.* from messaging.outbox x
    where x.slot = k.slot and x.key_hash = k.key_hash and x.topic = k.topic and x.key = k.key
    order by x.id limit (select rows from share)) r;
end $$;

-- How many rows wait (counted up to p_bound) and since when the oldest of these does, in seconds.
create function messaging.outbox_load(p_bound int) returns table (pending bigint, oldest_seconds double precision)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select count(*), coalesce(extract(epoch from clock_timestamp() - min(b.enqueued_at)), 0)::double precision
  from (select o.enqueued_at from messaging.outbox o limit p_bound) b
$$;

-- Slots of the relay: a lease saves repeats, order does not depend on it (delivery rule 6). A slot has its owner for as long
-- as that relay is alive: one row says so, and not each of 64, which were most of the rows that an idle stack wrote.
create table messaging.outbox_slots (
  slot  smallint primary key check (slot between 0 and 63),
  owner uuid
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
insert into messaging.outbox_slots (slot) select generate_series(0, 63);
grant select, update on messaging.outbox_slots to signalbox_queue;

-- The relays that are alive; the fair share of each is 64 divided by their number.
create table messaging.outbox_relays (
  owner uuid primary key,
  until timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
grant select, insert, update, delete on messaging.outbox_relays to signalbox_queue;

-- Renews the owner's lease, gives back slots over its fair share, takes free ones and those of relays that are gone up
-- to it. Returns the slots held now. Two at once: each looks again at a slot that the other has just taken.
create function messaging.outbox_lease(p_owner uuid, p_lease_ms int) returns smallint[]
  language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_until timestamptz := v_now + make_interval(secs => p_lease_ms / 1000.0);
  v_share int;
begin
  delete from messaging.outbox_relays r where r.until < v_now and r.owner <> p_owner;
  insert into messaging.outbox_relays (owner, until) values (p_owner, v_until)
    on conflict (owner) do update set until = excluded.until;
  select ceil(64.0 / count(*))::int into v_share from messaging.outbox_relays;
  update messaging.outbox_slots s set owner = null
    where s.owner = p_owner and s.slot in (
      select o.slot from messaging.outbox_slots o where o.owner = p_owner order by o.slot offset v_share);
  update messaging.outbox_slots s set owner = p_owner
    from (select f.slot from messaging.outbox_slots f
          where f.owner is null or not exists (select from messaging.outbox_relays r where r.owner = f.owner)
          order by f.slot
          limit greatest(v_share - (select count(*) from messaging.outbox_slots m where m.owner = p_owner), 0)
          for update of f skip locked) free
    where s.slot = free.slot;
  return coalesce((select array_agg(h.slot order by h.slot) from messaging.outbox_slots h where h.owner = p_owner), '{}');
end $$;

create function messaging.outbox_release(p_owner uuid) returns void
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  update messaging.outbox_slots set owner = null where owner = p_owner;
  delete from messaging.outbox_relays where owner = p_owner;
$$;

select app.protect_queue_functions('messaging',
  'signalbox_gateway', 'signalbox_conversation_worker', 'signalbox_tool_executor', 'signalbox_outbox_sync');

-- Down Migration
drop schema messaging cascade;
