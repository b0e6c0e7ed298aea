-- Up Migration

-- A rebuild makes the replica again from memory.wal, beside the live copy:
--
--   1. begin: under the exclusive lock (no intake is under way) the other copy is emptied, and from here on every intake
--      writes to both.
--   2. It reads the topic from its beginning to the end that the topic had *after* 1, into the other copy. What comes
--      behind that end is read by the intake after 1, so it is in both. Versions decide, so the order does not matter.
--   3. switch: under the exclusive lock the other copy is the live one.
--
-- Its lease is what makes 2 true: once it has lapsed, an intake may have written to one copy only. So it is renewed only
-- while it holds, 3 asks for it too, and whoever begins again begins with an empty copy.

-- Begins, with a lease of so many milliseconds; false while another rebuild is under way.
create function memory_replicator.rebuild_begin(p_owner uuid, p_lease_ms int) returns boolean
  language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
as $$
declare
  v_other smallint;
begin
  perform pg_advisory_xact_lock(7241865325824070);
  select 1 - c.live into v_other from memory_replicator.copies c
  where c.rebuild_until is null or c.rebuild_until <= clock_timestamp();
  if v_other is null then return false; end if;
  if v_other = 0 then truncate memory_replicator.memories_0; else truncate memory_replicator.memories_1; end if;
  update memory_replicator.copies
  set rebuild_owner = p_owner, rebuild_until = clock_timestamp() + make_interval(secs => p_lease_ms / 1000.0);
  return true;
end $$;

-- Renews the lease; false when it has lapsed. Under the lock that every intake shares. Without it:
--   the renewal has begun, and is not committed → the lease lapses by the clock → an intake reads the old end, and writes to
--   the live copy alone → the renewal commits → the switch finds the lease good, and what that intake took is gone.
create function memory_replicator.rebuild_hold(p_owner uuid, p_lease_ms int) returns boolean
  language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
as $$
begin
  perform pg_advisory_xact_lock(7241865325824070);
  update memory_replicator.copies set rebuild_until = clock_timestamp() + make_interval(secs => p_lease_ms / 1000.0)
  where rebuild_owner = p_owner and rebuild_until > clock_timestamp();
  return found;
end $$;

-- Makes the other copy the live one; false when the lease has lapsed.
create function memory_replicator.rebuild_switch(p_owner uuid) returns boolean
  language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
as $$
begin
  perform pg_advisory_xact_lock(7241865325824070);
  update memory_replicator.copies
  set live = 1 - live, switched_at = clock_timestamp(), rebuild_owner = null, rebuild_until = null,
    reindex_tenant = '', reindex_after = '00000000-0000-0000-0000-000000000000'
  where rebuild_owner = p_owner and rebuild_until > clock_timestamp();
  return found;
end $$;

-- Empties the copy that is not live, unless a rebuild fills it: after a switch, or when one is given up.
create function memory_replicator.rebuild_end(p_owner uuid) returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
as $$
declare
  v_other smallint;
begin
  perform pg_advisory_xact_lock(7241865325824070);
  update memory_replicator.copies set rebuild_owner = null, rebuild_until = null where rebuild_owner = p_owner;
  select 1 - c.live into v_other from memory_replicator.copies c
  where c.rebuild_until is null or c.rebuild_until <= clock_timestamp();
  if v_other = 0 then truncate memory_replicator.memories_0;
  elsif v_other = 1 then truncate memory_replicator.memories_1; end if;
end $$;

-- After a switch: has the next memories and search rows, by tenant and id, indexed anew; false when there are no more.
create function memory_replicator.reindex_some(p_limit int) returns boolean
  language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_copies memory_replicator.copies;
  v_tenants text[];
  v_ids uuid[];
begin
  select * into v_copies from memory_replicator.copies where reindex_tenant is not null for update skip locked;
  if not found then return false; end if;
  select array_agg(k.tenant order by k.tenant, k.memory_id), array_agg(k.memory_id order by k.tenant, k.memory_id)
  into v_tenants, v_ids from (
    select * from (
      (select m.tenant, m.memory_id from memory_replicator.memories m
       where m.copy = v_copies.live and (m.tenant, m.memory_id) > (v_copies.reindex_tenant, v_copies.reindex_after)
       order by m.tenant, m.memory_id limit p_limit)
      union
      (select s.tenant, s.memory_id from memory_replicator.search s
       where (s.tenant, s.memory_id) > (v_copies.reindex_tenant, v_copies.reindex_after)
       order by s.tenant, s.memory_id limit p_limit)) b
    order by b.tenant, b.memory_id limit p_limit) k;
  insert into memory_replicator.to_index (tenant, memory_ids)
  select u.tenant, array_agg(u.memory_id) from unnest(v_tenants, v_ids) as u(tenant, memory_id) group by u.tenant;
  update memory_replicator.copies set reindex_tenant = v_tenants[cardinality(v_tenants)],
    reindex_after = v_ids[cardinality(v_ids)];
  return v_ids is not null;
end $$;

select app.protect_queue_functions('memory_replicator', 'signalbox_memory_replicator');

-- Down Migration
drop function memory_replicator.reindex_some, memory_replicator.rebuild_end, memory_replicator.rebuild_switch,
  memory_replicator.rebuild_hold, memory_replicator.rebuild_begin;
