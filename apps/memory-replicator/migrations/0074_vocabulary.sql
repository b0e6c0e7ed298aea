-- Up Migration

-- Renewed under the lock that every intake shares. Without it:
--   the renewal has begun, and is not committed → the lease lapses by the clock → an intake reads the old end, and writes to
--   the live copy alone → the renewal commits → the switch finds the lease good, and what that intake took is gone.
create or replace function memory_replicator.rebuild_hold(p_owner uuid, p_lease_ms int) returns boolean
  language plpgsql security definer set search_path = pg_catalog, pg_temp set lock_timeout = '3s'
as $$
begin
  perform pg_advisory_xact_lock(7241865325824070);
  update memory_replicator.copies set rebuild_until = clock_timestamp() + make_interval(secs => p_lease_ms / 1000.0)
  where rebuild_owner = p_owner and rebuild_until > clock_timestamp();
  return found;
end $$;

-- Takes words out of the vocabulary that no memory holds any more, also none of the ones that were indexed just now. The
-- words of a deleted memory are what it said. Planned for each call: an empty table's plan reads all rows of the tenant.
create function memory_replicator.forget_words(p_tenants text[], p_words text[], p_made_tenants text[], p_made uuid[])
  returns void
  language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
  set enable_seqscan = off set enable_indexscan = off set jit = off
as $$
declare
  v_tenants text[];
  v_words text[];
begin
  select array_agg(l.tenant), array_agg(l.word) into v_tenants, v_words from (
    select g.tenant, g.word from unnest(p_tenants, p_words) as g(tenant, word)
    except
    select s.tenant, u.word from unnest(p_made_tenants, p_made) as i(tenant, memory_id)
    join memory_replicator.search s on s.tenant = i.tenant and s.memory_id = i.memory_id,
    unnest(tsvector_to_array(s.words)) as u(word)) l;
  delete from memory_replicator.words w using unnest(v_tenants, v_words) as g(tenant, word)
  where w.tenant = g.tenant and w.word = g.word collate "C" and (
    select true from memory_replicator.search s
    where s.tenant = g.tenant and not s.folded
      and s.words @@ ('''' || replace(replace(g.word, '\', '\\'), '''', '''''') || '''')::tsquery limit 1) is null;
end $$;
revoke all on function memory_replicator.forget_words from public;
grant execute on function memory_replicator.forget_words to signalbox_queue;

-- As before, and words whose last memory has gone go with it.
create or replace function memory_replicator.index_pending(p_limit int) returns int
  language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
  v_tenants text[];
  v_ids uuid[];
  v_fold_tenants text[];
  v_fold_keys uuid[];
  v_more_tenants text[];
  v_more_keys uuid[];
  v_live smallint := memory_replicator.live_copy();
  v_word_tenants text[];
  v_words text[];
begin
  if not pg_try_advisory_xact_lock(7241865325824071) then return null; end if;
  with next as (
    select t.id from (select i.id, coalesce(sum(cardinality(i.memory_ids)) over (order by i.id
        rows between unbounded preceding and 1 preceding), 0) as before
      from (select * from memory_replicator.to_index order by id limit p_limit) i) t
    where t.before < p_limit),
  taken as (delete from memory_replicator.to_index i using next where i.id = next.id returning i.tenant, i.memory_ids),
  each as (select distinct t.tenant, u.memory_id from taken t, unnest(t.memory_ids) u(memory_id))
  select array_agg(e.tenant order by e.tenant, e.memory_id), array_agg(e.memory_id order by e.tenant, e.memory_id)
  into v_tenants, v_ids from each e;
  if v_ids is null then return 0; end if;

  with gone as (
    delete from memory_replicator.search s using unnest(v_tenants, v_ids) as u(tenant, memory_id)
    where s.tenant = u.tenant and s.memory_id = u.memory_id
    returning s.tenant, s.memory_id, s.fold_key, s.words),
  counted as (
    update memory_replicator.words w set memories = greatest(w.memories - c.n, 1)
    from (select g.tenant, u.word, 16 * count(*)::int as n
          from gone g, unnest(tsvector_to_array(g.words) || array['']) as u(word)
          where memory_replicator.is_sample(g.memory_id) group by g.tenant, u.word) c
    where w.tenant = c.tenant and w.word = c.word),
  rare as (
    select distinct g.tenant, u.word from gone g, unnest(tsvector_to_array(g.words)) as u(word)
    where (select w.memories from memory_replicator.words w where w.tenant = g.tenant and w.word = u.word collate "C") <= 2000)
  select array_agg(g.tenant), array_agg(g.fold_key),
    (select array_agg(r.tenant order by r.tenant, r.word) from rare r),
    (select array_agg(r.word order by r.tenant, r.word) from rare r)
  into v_fold_tenants, v_fold_keys, v_word_tenants, v_words from gone g;

  with made as (
    insert into memory_replicator.search (tenant, memory_id, version, namespace, session_id, role, occurred_at, expires_at,
      fold_key, words)
    select m.tenant, m.memory_id, m.version, m.namespace, m.session_id, m.role, m.occurred_at, m.expires_at,
      memory_replicator.fold_key(m.body), to_tsvector('pg_catalog.simple', m.body)
    from unnest(v_tenants, v_ids) as u(tenant, memory_id)
    join memory_replicator.memories m on m.tenant = u.tenant and m.memory_id = u.memory_id
      and m.copy = v_live and m.deleted_at is null
    returning tenant, memory_id, fold_key, words),
  counted as (
    insert into memory_replicator.words as w (tenant, word, memories)
    select m.tenant, u.word, 16 * count(*)::int from made m, unnest(tsvector_to_array(m.words) || array['']) as u(word)
    where memory_replicator.is_sample(m.memory_id)
    group by m.tenant, u.word order by m.tenant, u.word
    on conflict (tenant, word) do update set memories = w.memories + excluded.memories)
  select array_agg(m.tenant), array_agg(m.fold_key) into v_more_tenants, v_more_keys from made m;

  insert into memory_replicator.words (tenant, word, memories)
  select distinct s.tenant collate "C", u.word, 1
  from unnest(v_tenants, v_ids) as i(tenant, memory_id)
  join memory_replicator.search s on s.tenant = i.tenant and s.memory_id = i.memory_id,
  unnest((tsvector_to_array(s.words) || array[''])) as w(word), lateral (select w.word collate "C") u(word)
  order by 1, 2
  on conflict do nothing;

  -- Of those that say the same only the newest is shown, unless an older one lives longer.
  update memory_replicator.search s set folded = f.folded
  from (
    select e.tenant, e.memory_id, exists (
      select from memory_replicator.search n
      where n.tenant = e.tenant and n.fold_key = e.fold_key and n.namespace = e.namespace and n.role = e.role
        and (n.occurred_at, n.memory_id) > (e.occurred_at, e.memory_id)
        and coalesce(n.expires_at, 'infinity') >= coalesce(e.expires_at, 'infinity')) as folded
    from (select distinct * from unnest(v_fold_tenants || v_more_tenants, v_fold_keys || v_more_keys) as u(tenant, fold_key)) t
    join memory_replicator.search e on e.tenant = t.tenant and e.fold_key = t.fold_key) f
  where s.tenant = f.tenant and s.memory_id = f.memory_id and s.folded <> f.folded;
  perform memory_replicator.forget_words(v_word_tenants, v_words, v_tenants, v_ids) where v_words is not null;
  return cardinality(v_ids);
end $$;

-- As before, but its rows are locked in key order, and the search rows are the index's to remove, as those of every memory
-- that is gone: it removes its own in another order, and only it knows which words go with them.
create or replace function memory_replicator.compact(p_tenant text, p_after uuid, p_limit int, p_now timestamptz, p_keep interval)
  returns table (looked_at int, deleted int, expired int, folded int, bytes bigint, last_tenant text, last_id uuid)
  language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
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
create or replace function memory_replicator.index_pending(p_limit int) returns int
  language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
declare
  v_tenants text[];
  v_ids uuid[];
  v_fold_tenants text[];
  v_fold_keys uuid[];
  v_more_tenants text[];
  v_more_keys uuid[];
  v_live smallint := memory_replicator.live_copy();
begin
  if not pg_try_advisory_xact_lock(7241865325824071) then return null; end if;
  with next as (
    select t.id from (select i.id, coalesce(sum(cardinality(i.memory_ids)) over (order by i.id
        rows between unbounded preceding and 1 preceding), 0) as before
      from (select * from memory_replicator.to_index order by id limit p_limit) i) t
    where t.before < p_limit),
  taken as (delete from memory_replicator.to_index i using next where i.id = next.id returning i.tenant, i.memory_ids),
  each as (select distinct t.tenant, u.memory_id from taken t, unnest(t.memory_ids) u(memory_id))
  select array_agg(e.tenant order by e.tenant, e.memory_id), array_agg(e.memory_id order by e.tenant, e.memory_id)
  into v_tenants, v_ids from each e;
  if v_ids is null then return 0; end if;

  with gone as (
    delete from memory_replicator.search s using unnest(v_tenants, v_ids) as u(tenant, memory_id)
    where s.tenant = u.tenant and s.memory_id = u.memory_id
    returning s.tenant, s.memory_id, s.fold_key, s.words),
  counted as (
    update memory_replicator.words w set memories = greatest(w.memories - c.n, 1)
    from (select g.tenant, u.word, 16 * count(*)::int as n
          from gone g, unnest(tsvector_to_array(g.words) || array['']) as u(word)
          where memory_replicator.is_sample(g.memory_id) group by g.tenant, u.word) c
    where w.tenant = c.tenant and w.word = c.word)
  select array_agg(g.tenant), array_agg(g.fold_key) into v_fold_tenants, v_fold_keys from gone g;

  with made as (
    insert into memory_replicator.search (tenant, memory_id, version, namespace, session_id, role, occurred_at, expires_at,
      fold_key, words)
    select m.tenant, m.memory_id, m.version, m.namespace, m.session_id, m.role, m.occurred_at, m.expires_at,
      memory_replicator.fold_key(m.body), to_tsvector('pg_catalog.simple', m.body)
    from unnest(v_tenants, v_ids) as u(tenant, memory_id)
    join memory_replicator.memories m on m.tenant = u.tenant and m.memory_id = u.memory_id
      and m.copy = v_live and m.deleted_at is null
    returning tenant, memory_id, fold_key, words),
  counted as (
    insert into memory_replicator.words as w (tenant, word, memories)
    select m.tenant, u.word, 16 * count(*)::int from made m, unnest(tsvector_to_array(m.words) || array['']) as u(word)
    where memory_replicator.is_sample(m.memory_id)
    group by m.tenant, u.word order by m.tenant, u.word
    on conflict (tenant, word) do update set memories = w.memories + excluded.memories)
  select array_agg(m.tenant), array_agg(m.fold_key) into v_more_tenants, v_more_keys from made m;

  insert into memory_replicator.words (tenant, word, memories)
  select distinct s.tenant collate "C", u.word, 1
  from unnest(v_tenants, v_ids) as i(tenant, memory_id)
  join memory_replicator.search s on s.tenant = i.tenant and s.memory_id = i.memory_id,
  unnest((tsvector_to_array(s.words) || array[''])) as w(word), lateral (select w.word collate "C") u(word)
  order by 1, 2
  on conflict do nothing;

  -- Of those that say the same only the newest is shown, unless an older one lives longer.
  update memory_replicator.search s set folded = f.folded
  from (
    select e.tenant, e.memory_id, exists (
      select from memory_replicator.search n
      where n.tenant = e.tenant and n.fold_key = e.fold_key and n.namespace = e.namespace and n.role = e.role
        and (n.occurred_at, n.memory_id) > (e.occurred_at, e.memory_id)
        and coalesce(n.expires_at, 'infinity') >= coalesce(e.expires_at, 'infinity')) as folded
    from (select distinct * from unnest(v_fold_tenants || v_more_tenants, v_fold_keys || v_more_keys) as u(tenant, fold_key)) t
    join memory_replicator.search e on e.tenant = t.tenant and e.fold_key = t.fold_key) f
  where s.tenant = f.tenant and s.memory_id = f.memory_id and s.folded <> f.folded;
  return cardinality(v_ids);
end $$;

create or replace function memory_replicator.rebuild_hold(p_owner uuid, p_lease_ms int) returns boolean
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with held as (
    update memory_replicator.copies set rebuild_until = clock_timestamp() + make_interval(secs => p_lease_ms / 1000.0)
    where rebuild_owner = p_owner and rebuild_until > clock_timestamp() returning 1)
  select exists (select from held)
$$;

create or replace function memory_replicator.compact(p_tenant text, p_after uuid, p_limit int, p_now timestamptz, p_keep interval)
  returns table (looked_at int, deleted int, expired int, folded int, bytes bigint, last_tenant text, last_id uuid)
  language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
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
  gone as (
    delete from memory_replicator.memories m using judged j
    where j.why is not null and m.tenant = j.tenant and m.memory_id = j.memory_id and m.copy = v_live
      and m.version = j.version
    returning m.tenant, m.memory_id, j.why, j.bytes),
  search_gone as (
    delete from memory_replicator.search s using gone g
    where s.tenant = g.tenant and s.memory_id = g.memory_id returning pg_column_size(s.*) as bytes)
  select (select count(*)::int from piece),
    (select count(*)::int from gone g where g.why = 'deleted'),
    (select count(*)::int from gone g where g.why = 'expired'),
    (select count(*)::int from gone g where g.why = 'folded'),
    (select coalesce(sum(g.bytes), 0)::bigint from gone g) + (select coalesce(sum(s.bytes), 0)::bigint from search_gone s),
    (select p.tenant from piece p order by p.tenant desc, p.memory_id desc limit 1),
    (select p.memory_id from piece p order by p.tenant desc, p.memory_id desc limit 1);
end $$;

drop function memory_replicator.forget_words;
