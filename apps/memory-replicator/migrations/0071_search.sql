-- Up Migration

-- Both may be made by the owner of a database who is no superuser; where they are there already, they stay where they are.
create extension if not exists pg_trgm with schema app;
create extension if not exists btree_gin with schema app;

-- What a memory is found by. Made behind the intake, from the live copy; without text.
create table memory_replicator.search (
  tenant      text not null,
  memory_id   uuid not null,
  version     int not null,
  namespace   text not null,
  session_id  uuid,
  role        text not null,
  occurred_at timestamptz not null,
  expires_at  timestamptz,
  -- Equal for texts that differ in case, blanks and punctuation between words only.
  fold_key    uuid not null,
  -- A newer memory says the same, and lives at least as long.
  folded      boolean not null default false,
  words       tsvector not null,
  primary key (tenant, memory_id)
);
create index search_newest on memory_replicator.search (tenant, occurred_at desc, memory_id desc);
create index search_session on memory_replicator.search (tenant, session_id, occurred_at desc, memory_id desc)
  where session_id is not null;
create index search_fold on memory_replicator.search (tenant, fold_key, namespace, role);
select app.protect_queue_table('memory_replicator.search');

-- In how many memories of the tenant a word stands, about; of all words together under ''.
create table memory_replicator.words (
  tenant   text not null,
  word     text collate "C" not null,
  memories int not null,
  primary key (tenant, word)
);
select app.protect_queue_table('memory_replicator.words');

-- Equal for texts that differ only in case, blanks, and punctuation at the edge of words: `C++` and `C`, `3.14` and `314`
-- stay apart. Plain replacements: a regular expression takes 40 µs for 250 characters, these 7.
create function memory_replicator.fold_key(p_text text) returns uuid
  language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
  v text := ' ' || translate(lower(p_text), e'\n\r\t"', '    ') || ' ';
  v_mark text;
begin
  if octet_length(v) <> length(v) then v := translate(v, '“”„«»…', '     .'); end if;
  foreach v_mark in array array[') ', '. ', '.. ', '. ', ', ', '; ', ': ', '! ', '? '] loop
    v := replace(v, v_mark, ' ');
  end loop;
  v := replace(v, ' (', ' ');
  while position('  ' in v) > 0 loop v := replace(v, '  ', ' '); end loop;
  return md5(v)::uuid;
end $$;

-- The extensions' operators are found wherever they were made before this. Both indexes have the tenant in another collation:
-- a search by words cannot take the primary key for it, which looks as good while there are no statistics.
do $$
declare
  v_trgm text := (select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace where extname = 'pg_trgm');
  v_gin text := (select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace where extname = 'btree_gin');
begin
  execute format('grant usage on schema %I to signalbox_queue', v_trgm);
  execute format('create index search_words on memory_replicator.search using gin ((tenant collate "POSIX") %I.text_ops, words) with (gin_pending_list_limit = 256) where not folded', v_gin);
  execute format('create index words_alike on memory_replicator.words using gin ((tenant collate "POSIX") %I.text_ops, word %I.gin_trgm_ops)
    with (gin_pending_list_limit = 64) where length(word) between 3 and 40', v_gin, v_trgm);
  execute format($f$
    create function memory_replicator.words_alike(p_tenant text, p_word text) returns table (word text, memories int)
      language sql stable security definer rows 4 set search_path = pg_catalog, %I, pg_temp
      set pg_trgm.similarity_threshold = 0.5
    as $b$
      select w.word, w.memories from memory_replicator.words w
      where w.tenant collate "POSIX" = p_tenant and w.word %% p_word and w.word <> p_word and length(w.word) between 3 and 40
      order by similarity(w.word, p_word) desc, w.word limit 4
    $b$ $f$, v_trgm);
end $$;

-- Counts words by every 16th memory, which is enough to tell common ones from rare ones and a sixteenth of the writes.
-- Every word without digits is there, for words like it to be found.
create function memory_replicator.is_sample(p_memory_id uuid) returns boolean
  language sql immutable strict parallel safe
return (get_byte(uuid_send(p_memory_id), 15) & 15) = 0;

-- Takes words out of the vocabulary that no memory holds any more, also none of those that were indexed just now: the words
-- of a deleted memory are what it said.
create function memory_replicator.forget_words(p_tenants text[], p_words text[], p_made_tenants text[], p_made uuid[])
  returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
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
    where s.tenant collate "POSIX" = g.tenant and not s.folded
      and s.words @@ ('''' || replace(replace(g.word, '\', '\\'), '''', '''''') || '''')::tsquery limit 1) is null;
end $$;

-- Makes the search rows of these memories as they are now, for a caller who holds the index's lock.
create function memory_replicator.index_these(p_tenants text[], p_ids uuid[]) returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  -- Planned anew each time, for the size that the tables have then: a plan that was made while they were empty takes any
  -- index that begins with the tenant, and reads all rows of the tenant for each memory.
  set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
  v_fold_tenants text[];
  v_fold_keys uuid[];
  v_more_tenants text[];
  v_more_keys uuid[];
  v_word_tenants text[];
  v_words text[];
  v_live smallint := memory_replicator.live_copy();
begin
  with gone as (
    delete from memory_replicator.search s using unnest(p_tenants, p_ids) as u(tenant, memory_id)
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
    from unnest(p_tenants, p_ids) as u(tenant, memory_id)
    -- By itself (offset 0), whatever the statistics say of joins.
    cross join lateral (select * from memory_replicator.memories r
      where r.tenant = u.tenant and r.memory_id = u.memory_id and r.copy = v_live offset 0) m
    where m.deleted_at is null
    returning tenant, memory_id, fold_key, words),
  counted as (
    insert into memory_replicator.words as w (tenant, word, memories)
    select m.tenant, u.word, 16 * count(*)::int from made m, unnest(tsvector_to_array(m.words) || array['']) as u(word)
    where memory_replicator.is_sample(m.memory_id)
    group by m.tenant, u.word order by m.tenant, u.word
    on conflict (tenant, word) do update set memories = w.memories + excluded.memories)
  select array_agg(m.tenant), array_agg(m.fold_key) into v_more_tenants, v_more_keys from made m;

  -- Numbers and ids are found all the same, by themselves: nothing is like them, and there is no end of them.
  insert into memory_replicator.words (tenant, word, memories)
  select d.tenant, d.word, 1 from (
    select distinct s.tenant collate "C" as tenant, u.word
    from unnest(p_tenants, p_ids) as i(tenant, memory_id)
    join memory_replicator.search s on s.tenant = i.tenant and s.memory_id = i.memory_id,
    unnest((tsvector_to_array(s.words) || array[''])) as w(word), lateral (select w.word collate "C") u(word)) d
  where d.word = '' or (length(d.word) between 3 and 40 and d.word !~ '[0-9]')
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
    cross join lateral (select * from memory_replicator.search o
      where o.tenant = t.tenant and o.fold_key = t.fold_key offset 0) e) f
  where s.tenant = f.tenant and s.memory_id = f.memory_id and s.folded <> f.folded;
  perform memory_replicator.forget_words(v_word_tenants, v_words, p_tenants, p_ids) where v_words is not null;
end $$;

-- Makes the search rows of memories that have changed, at most about so many; answers how many it has looked at, null
-- while another process does it. One at a time: two would not see each other's memories that say the same.
create function memory_replicator.index_pending(p_limit int) returns int
  language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenants text[];
  v_ids uuid[];
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
  perform memory_replicator.index_these(v_tenants, v_ids);
  return cardinality(v_ids);
end $$;

-- Of a few memories, those of a turn or written by hand, in the transaction that takes them; of more, behind the intake, and
-- also where somebody else makes search rows for longer than a moment (the two memories of a turn come at once, from two
-- partitions). A row that says what is to be made would be written and deleted for each.
create or replace function memory_replicator.index_later(p_tenant text, p_memory_ids uuid[]) returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_alone boolean := cardinality(p_memory_ids) between 1 and 8;
begin
  if v_alone then
    begin
      perform set_config('lock_timeout', '20ms', true);
      perform pg_advisory_xact_lock(7241865325824071);
    exception when lock_not_available then
      v_alone := false;
    end;
    perform set_config('lock_timeout', '0', true);
  end if;
  if v_alone then
    perform memory_replicator.index_these(array_fill(p_tenant, array[cardinality(p_memory_ids)]), p_memory_ids);
  elsif cardinality(p_memory_ids) > 0 then
    insert into memory_replicator.to_index (tenant, memory_ids) values (p_tenant, p_memory_ids);
  end if;
end $$;

-- Ids and scores of the tenant's memories that help with a text, best first: what is in the index, newest of those that say
-- the same, not expired. Whether one was deleted or changed since, the replica's row says.
--
-- Score: the weights of the words that a memory has, of all in the text (rare words weigh more; one like it counts 0.7),
-- times 0.75 to 1 by age (half of that after 30 days) and session.
--
-- A common word is in half of the memories, and nobody could rank those in time. So the index is asked for the rarest
-- words of the text, as many as lead to about p_candidates memories; where the rarest is too common for that, for memories
-- that hold it beside another one. The newest memories of the tenant and of the session are looked at besides.
create function memory_replicator.match(
  p_query text, p_namespaces text[], p_roles text[], p_session uuid, p_limit int, p_candidates int)
  returns table (memory_id uuid, version int, score double precision)
  language plpgsql stable security definer rows 50 set search_path = pg_catalog, pg_temp
  -- Without statistics too: the newest come in the order of their index, not from all rows of the tenant.
  set enable_seqscan = off set enable_sort = off set jit = off
as $$
declare
  v_tenant text := app.tenant();
  v_all int;
  v_few boolean;
  v_words text[];
  v_counts int[];
  v_quoted text[];
  v_weight double precision;
  v_sum double precision := 0;
  v_score text := '0';
  v_found int := 0;
  v_skipped int;
  v_asked text[] := '{}';
  v_like record;
  v_others text;
  v_rows int;
  v_columns text := 'select s.memory_id, s.version, s.namespace, s.role, s.session_id, s.occurred_at, s.words
    from memory_replicator.search s where not s.folded and (s.expires_at is null or s.expires_at > now())';
begin
  if v_tenant is null then return; end if;
  select w.memories into v_all from memory_replicator.words w where w.tenant = v_tenant and w.word = '';
  if v_all is null then return; end if;
  -- Few memories are counted as they are: a sixteenth of them says nothing of their words.
  v_few := v_all <= 1000;
  if v_few then
    select count(*)::int into v_all from memory_replicator.search s
    where s.tenant = v_tenant and not s.folded and (s.expires_at is null or s.expires_at > now());
    if v_all = 0 then return; end if;
  end if;
  -- The 16 rarest words of the text.
  select array_agg(q.word order by q.n, q.word), array_agg(q.n order by q.n, q.word) into v_words, v_counts
  from (
    select a.word, case when v_few then (
        select count(*)::int from memory_replicator.search s
        where s.tenant collate "POSIX" = v_tenant and not s.folded and (s.expires_at is null or s.expires_at > now())
          and s.words @@ ('''' || replace(replace(a.word, '\', '\\'), '''', '''''') || '''')::tsquery)
      else a.about end as n
    from (select l.word, coalesce(w.memories, 0) as about
          from unnest(tsvector_to_array(to_tsvector('pg_catalog.simple', p_query))) as l(word)
          left join memory_replicator.words w on w.tenant = v_tenant and w.word = l.word collate "C"
          order by 2, 1 limit case when v_few then 32 else 16 end) a
    order by 2, 1 limit 16) q;
  if v_words is null then return; end if;

  for i in 1 .. cardinality(v_words) loop
    v_quoted[i] := '''' || replace(replace(v_words[i], '\', '\\'), '''', '''''') || '''';
    v_rows := v_counts[i];
    v_weight := ln(1 + v_all::double precision / (1 + v_counts[i]));
    v_sum := v_sum + v_weight;
    v_others := null;
    -- Other forms of a word and slips of the pen: for the rare words, which say most.
    if i <= 4 and v_counts[i] * 50 <= v_all + 1000 and length(v_words[i]) between 4 and 40
      and v_words[i] !~ '[0-9]' then
      for v_like in select a.word, a.memories from memory_replicator.words_alike(v_tenant, v_words[i]) a loop
        continue when v_like.memories * 50 > v_all + 1000;
        v_others := concat_ws(' | ', v_others,
          '''' || replace(replace(v_like.word, '\', '\\'), '''', '''''') || '''');
        v_rows := v_rows + v_like.memories;
      end loop;
    end if;
    v_rows := greatest(v_rows, 1); -- not counted is not unknown
    v_score := v_score || format(' + case when l.words @@ %L::tsquery then %s%s else 0 end', v_quoted[i], v_weight,
      case when v_others is null then '' else format(' when l.words @@ %L::tsquery then %s', v_others, 0.7 * v_weight) end);
    if v_found + v_rows <= p_candidates then
      v_asked := v_asked || concat_ws(' | ', v_quoted[i], v_others);
      v_found := v_found + v_rows;
    elsif v_skipped is null then
      v_skipped := i;
    end if;
  end loop;

  -- The rarest of the words that were too common, beside one of the others: the index walks along its memories only.
  if v_counts[v_skipped] <= 10000 then
    v_others := null;
    for i in v_skipped + 1 .. cardinality(v_words) loop
      v_rows := ceil(v_counts[v_skipped]::double precision * v_counts[i] / greatest(v_all, 1));
      exit when v_found + v_rows > p_candidates;
      v_found := v_found + v_rows;
      v_others := concat_ws(' | ', v_others, v_quoted[i]);
    end loop;
    if v_others is not null then v_asked := v_asked || format('(%s & (%s))', v_quoted[v_skipped], v_others); end if;
  end if;

  return query execute format($q$
    with looked_at as (
      (%s and s.tenant = $1 order by s.occurred_at desc, s.memory_id desc limit %s)
      union all
      (%s and s.tenant = $1 and s.session_id = $4 order by s.occurred_at desc, s.memory_id desc limit 200)
      %s),
    said as materialized (
      select l.memory_id, l.version, l.session_id, l.occurred_at, (%s) / %s as words
      from looked_at l
      where ($2 is null or l.namespace = any ($2)) and ($3 is null or l.role = any ($3)))
    select r.memory_id, r.version, round(r.score::numeric, 4)::double precision from (
      select distinct d.memory_id, d.version, d.occurred_at,
        d.words * (0.75::double precision
          + 0.15::double precision * exp(-0.693147 * greatest(date_part('epoch', now() - d.occurred_at), 0) / 2592000)
          + case when d.session_id = $4 then 0.1::double precision else 0 end) as score
      from said d where d.words > 0) r
    order by 3 desc, r.occurred_at desc, r.memory_id limit $5 $q$,
    v_columns, case when p_namespaces is null and p_roles is null then 200 else 800 end, v_columns,
    case when cardinality(v_asked) > 0 then format('union all (%s and s.tenant collate "POSIX" = $1 and s.words @@ %L::tsquery limit %s)', v_columns,
      array_to_string(v_asked, ' | '), 4 * p_candidates) else '' end,
    v_score, v_sum)
  using v_tenant, p_namespaces, p_roles, p_session, p_limit;
end $$;

-- Those of the tenant's memories that a newer one says again.
create function memory_replicator.folded(p_memory_ids uuid[]) returns setof uuid
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select s.memory_id from memory_replicator.search s
  where s.tenant = app.tenant() and s.memory_id = any (p_memory_ids) and s.folded
$$;

-- How many batches wait for the index, and the age of the oldest, in seconds.
create function memory_replicator.index_lag() returns table (batches bigint, oldest_seconds double precision)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select count(*), coalesce(date_part('epoch', clock_timestamp() - min(put_at)), 0) from memory_replicator.to_index
$$;

select app.protect_queue_functions('memory_replicator', 'signalbox_memory_replicator');

-- Down Migration
drop function memory_replicator.index_lag, memory_replicator.folded, memory_replicator.match, memory_replicator.index_pending, memory_replicator.is_sample,
  memory_replicator.forget_words, memory_replicator.words_alike, memory_replicator.fold_key;
drop table memory_replicator.words, memory_replicator.search;
