-- Up Migration

-- One piece of compaction: looks at the next p_limit rows by tenant and id, and removes those that nobody has seen for
-- p_keep: deleted, expired, or said again by a newer memory. They were invisible before, so reads stay as they are. p_keep
-- is longer than anything that could bring an older version back.
create function memory_replicator.compact(p_tenant text, p_after uuid, p_limit int, p_now timestamptz, p_keep interval)
  returns table (looked_at int, deleted int, expired int, folded int, bytes bigint, last_tenant text, last_id uuid)
  language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
  v_live smallint;
  v_before timestamptz := p_now - p_keep;
begin
  -- So that no rebuild switches meanwhile.
  perform pg_advisory_xact_lock_shared(7241865325824070);
  v_live := memory_replicator.live_copy();
  return query
  with piece as materialized (
    select m.tenant, m.memory_id, m.version, m.deleted_at, m.expires_at, m.stored_at, m.occurred_at,
      pg_column_size(m.*) as bytes
    from memory_replicator.memories m
    where m.copy = v_live and (m.tenant, m.memory_id) > (p_tenant, p_after)
    order by m.tenant, m.memory_id limit p_limit),
  judged as materialized (
    select p.tenant, p.memory_id, p.version, p.bytes,
      case
        when p.deleted_at is not null then case when p.deleted_at < v_before then 'deleted' end
        when p.expires_at < v_before then 'expired'
        when p.stored_at < v_before and exists (
          select from memory_replicator.search s
          join memory_replicator.search n on n.tenant = s.tenant and n.fold_key = s.fold_key
            and n.namespace = s.namespace and n.role = s.role
            and (n.occurred_at, n.memory_id) > (s.occurred_at, s.memory_id)
            and coalesce(n.expires_at, 'infinity') >= coalesce(s.expires_at, 'infinity')
          join memory_replicator.memories k on k.tenant = n.tenant and k.memory_id = n.memory_id and k.copy = v_live
            and k.version = n.version and k.deleted_at is null
          where s.tenant = p.tenant and s.memory_id = p.memory_id and s.version = p.version and s.folded) then 'folded'
      end as why
    from piece p),
  -- Locked in the order in which an intake locks them.
  locked as materialized (
    select m.tenant, m.memory_id, m.version, j.why, j.bytes
    from memory_replicator.memories m join judged j on m.tenant = j.tenant and m.memory_id = j.memory_id
    where j.why is not null and m.copy = v_live and m.version = j.version
    order by m.tenant collate "C", m.memory_id for update of m),
  gone as (
    delete from memory_replicator.memories m using locked l
    where m.tenant = l.tenant and m.memory_id = l.memory_id and m.copy = v_live
    returning m.tenant, m.memory_id, l.why, l.bytes),
  -- Their search rows, and the words that nobody else says, go with the next piece of the index.
  handed_over as (
    insert into memory_replicator.to_index (tenant, memory_ids)
    select g.tenant, array_agg(g.memory_id) from gone g group by g.tenant),
  search_gone as (
    select pg_column_size(s.*) as bytes from memory_replicator.search s
    join gone g on s.tenant = g.tenant and s.memory_id = g.memory_id)
  select (select count(*)::int from piece),
    (select count(*)::int from gone g where g.why = 'deleted'),
    (select count(*)::int from gone g where g.why = 'expired'),
    (select count(*)::int from gone g where g.why = 'folded'),
    (select coalesce(sum(g.bytes), 0)::bigint from gone g) + (select coalesce(sum(s.bytes), 0)::bigint from search_gone s),
    (select p.tenant from piece p order by p.tenant desc, p.memory_id desc limit 1),
    (select p.memory_id from piece p order by p.tenant desc, p.memory_id desc limit 1);
end $$;

select app.protect_queue_functions('memory_replicator', 'signalbox_memory_replicator');

-- Down Migration
drop function memory_replicator.compact;
