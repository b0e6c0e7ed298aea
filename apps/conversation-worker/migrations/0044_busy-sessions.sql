-- Up Migration

-- Messages that say what they do to a busy session, actions that end turns, and how a cancelled turn ends. What a process
-- of the release before calls keeps its form; its queue_places goes with the release after this one.

-- Of turns that wait: how many unfinished ones of their session come before each. The caller holds the lanes' locks since
-- it entered the rows, so the answer stands until its commit.
create function conversation_worker.turns_ahead(p_tenants text[], p_ids uuid[]) returns table (id uuid, ahead int)
  language sql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
  select i.id,
    (select count(*)::int from conversation_worker.turns b
     where b.tenant = i.tenant and b.key = i.key and b.finished_at is null and b.seq < i.seq)
  from unnest(p_tenants, p_ids) as n(tenant, id)
  join conversation_worker.turns i on i.tenant = n.tenant and i.id = n.id
  where i.state = 'ready'
$$;

-- Claims the lane for p_owner if nobody holds it and its first turn is one to be ended. The caller has locked the lane.
create function conversation_worker.claim_to_end(
  p_tenant text, p_key text, p_owner uuid, p_lease_ms int, p_formats int[])
  returns table (tenant text, key text, fence bigint, id uuid, format smallint, payload jsonb, attempt int, retries int,
    enqueued_at timestamptz, traceparent text, lost int, cancel jsonb)
  language plpgsql
as $$
#variable_conflict use_column
begin
  if exists (select from conversation_worker.lanes l where l.tenant = p_tenant and l.key = p_key and l.owner is null)
     and (select t.cancel is not null from conversation_worker.turns t
          where t.tenant = p_tenant and t.key = p_key and t.finished_at is null order by t.seq limit 1) then
    return query
    select w.*, t.lost, t.cancel
    from conversation_worker.work_take(array[p_tenant], array[p_key], p_owner, p_lease_ms, p_formats) w
    join conversation_worker.turns t on t.tenant = w.tenant and t.id = w.id;
  end if;
end $$;

-- Intake of records of which some end or refuse turns, taken one by one in the order of each session. A row is a message
-- {tenant, key, id, format, payload, traceparent, strategy} or an action {tenant, key, cancels, turn_id?, reason?},
-- `cancels` its event id. What became of each, in that order, `ord` its place:
--   repeated   it had its effect before: a message's inbox is its turn's row, an action's is in messaging.inbox
--   claimed    its turn is p_owner's, where its session was free and there was a slot; note: the claim
--   taken      its turn waits; note: {ahead}
--   rejected   the session was busy, the turn has ended; note: {busy_turn_id}
-- and what it did to other turns:
--   cancelled  one that had not run has ended; note: {cancel, request_id, traceparent}
--   flagged    one that runs, is parked, or waits for another try is to end; note: {cancel}
--   claimed    the same turn where nobody held the lane: it is p_owner's, to be ended. Without a slot: it takes a moment,
--              and must not wait for turns that run.
--
-- All of it is decided under the lane's lock, which is taken in the order of lanes and before the first look at the turns:
--   the holder ends its turn first     this waits for its commit: the session is free, nothing is refused or ended
--   this comes first                   the turn is seen unfinished; the holder's end waits for this commit, and stands
--   another replica takes them too     it waits for the lock, and then finds what this one has written
-- A turn that a later record of the same call ends is not claimed first.
create function conversation_worker.take_in_order(
  p_rows jsonb, p_owner uuid, p_slots int, p_lease_ms int, p_formats int[])
  returns table (ord int, what text, turn_id uuid, note jsonb)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
  set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  v_row record;
  v_left int := p_slots;
  v_busy uuid;
  v_cancel jsonb;
begin
  for v_row in
    select e.ord, e.row, r.*, lead(e.ord) over lane is null as last,
      coalesce(bool_or(r.cancels is not null or r.strategy = 'interrupt')
        over (lane rows between 1 following and unbounded following), false) as ends_later
    from jsonb_array_elements(p_rows) with ordinality as e(row, ord)
    cross join lateral jsonb_to_record(e.row) as r(
      tenant text, key text, id uuid, format smallint, payload jsonb, traceparent text, strategy text,
      cancels uuid, turn_id uuid, reason text)
    window lane as (partition by r.tenant collate "C", r.key collate "C" order by e.ord)
    order by r.tenant collate "C", r.key collate "C", e.ord
  loop
    ord := v_row.ord;
    v_busy := null;
    v_cancel := null;
    if v_row.cancels is not null then
      perform 1 from conversation_worker.lanes l where l.tenant = v_row.tenant and l.key = v_row.key for update;
      if exists (select from messaging.inbox_put('conversation-worker', array[v_row.tenant], array[v_row.cancels])) then
        v_cancel := jsonb_strip_nulls(
          jsonb_build_object('cause', 'requested', 'by', v_row.cancels, 'reason', v_row.reason));
      else
        what := 'repeated';
        turn_id := null;
        note := null;
        return next;
      end if;
    elsif v_row.strategy <> 'enqueue' then
      insert into conversation_worker.lanes as l (tenant, key) values (v_row.tenant, v_row.key)
        on conflict (tenant, key) do update set ready_at = l.ready_at where false;
      select t.id into v_busy from conversation_worker.turns t
        where t.tenant = v_row.tenant and t.key = v_row.key and t.finished_at is null
          -- A repeat refuses and ends nothing; work_enqueue finds its row.
          and not exists (select from conversation_worker.turns o where o.tenant = v_row.tenant and o.id = v_row.id)
        order by t.seq limit 1;
      if v_busy is not null and v_row.strategy = 'interrupt' then
        v_cancel := jsonb_build_object('cause', 'interrupted', 'by', v_row.payload -> 'event_id');
      end if;
    end if;

    if v_cancel is not null then
      for turn_id, what, note in
        select c.id, case when c.was = 'waiting' then 'cancelled' else 'flagged' end,
          jsonb_build_object('cancel', v_cancel, 'request_id', t.payload -> 'request_id', 'traceparent', t.traceparent)
        from conversation_worker.work_cancel(v_row.tenant, v_row.key,
          case when v_row.turn_id is not null then array[v_row.turn_id] end, v_cancel) with ordinality as c(id, was, place)
        join conversation_worker.turns t on t.tenant = v_row.tenant and t.id = c.id
        order by c.place
      loop
        return next;
      end loop;
    end if;

    if v_busy is not null and v_row.strategy = 'reject' then
      insert into conversation_worker.turns (tenant, id, key, format, payload, traceparent, state, finished_at)
      values (v_row.tenant, v_row.id, v_row.key, v_row.format, v_row.payload, v_row.traceparent, 'rejected',
        clock_timestamp());
      what := 'rejected';
      turn_id := v_row.id;
      note := jsonb_build_object('busy_turn_id', v_busy);
      return next;
    elsif v_row.cancels is null then
      what := 'repeated';
      turn_id := v_row.id;
      note := null;
      select case when c.claimed then 'claimed' else 'taken' end, case when c.claimed then to_jsonb(c) - 'claimed' end
        into what, note
        from conversation_worker.work_enqueue_and_claim(jsonb_build_array(v_row.row), p_owner,
          case when v_row.ends_later then 0 else v_left end, p_lease_ms, p_formats) c;
      if what = 'claimed' then
        v_left := v_left - 1;
      elsif what = 'taken' then
        select jsonb_build_object('ahead', a.ahead) into note
          from conversation_worker.turns_ahead(array[v_row.tenant], array[v_row.id]) a;
      else
        what := 'repeated';
      end if;
      return next;
    end if;

    if v_row.last then
      for turn_id, what, note in
        select c.id, 'claimed', to_jsonb(c)
        from conversation_worker.claim_to_end(v_row.tenant, v_row.key, p_owner, p_lease_ms, p_formats) c
      loop
        return next;
      end loop;
    end if;
  end loop;
end $$;

-- The same with what the runs of claimed turns start from. A turn that is to be ended is not opened.
create function conversation_worker.take_inbound(
  p_rows jsonb, p_owner uuid, p_slots int, p_lease_ms int, p_formats int[], p_history_tokens int)
  returns table (ord int, what text, turn_id uuid, note jsonb, opened jsonb)
  language plpgsql set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
  for ord, what, turn_id, note in
    select * from conversation_worker.take_in_order(p_rows, p_owner, p_slots, p_lease_ms, p_formats)
  loop
    opened := case when what = 'claimed' and note -> 'cancel' is null then conversation_worker.open_turn(
      p_owner, note ->> 'tenant', note ->> 'key', turn_id, note -> 'payload', (note ->> 'attempt')::int, p_history_tokens)
      end;
    return next;
  end loop;
end $$;

-- The steps of a turn that is to be ended, for its holder: nothing is entered, nothing will be run. `rows_of_others`: some
-- wait for this session's stream.
create function conversation_worker.read_journal(p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid)
  returns table (steps jsonb, elapsed_ms double precision, rows_of_others boolean)
  language plpgsql set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
begin
  perform conversation_worker.work_hold(p_tenant, p_key, p_owner, p_fence);
  perform set_config('app.tenant', p_tenant, true);
  return query
  select coalesce(jsonb_agg(jsonb_build_object('step', s.step, 'kind', s.kind, 'input', s.input,
      'operation_key', s.operation_key, 'outcome', s.outcome, 'attempt', s.attempt,
      'started_ms', extract(epoch from s.started_at) * 1000, 'finished_ms', extract(epoch from s.finished_at) * 1000)
      order by s.step), '[]'),
    coalesce(extract(epoch from clock_timestamp() - min(s.started_at)) * 1000, 0)::double precision,
    messaging.outbox_foreign(p_owner, 'conversation.outbound', p_key)
  from conversation_worker.steps s where s.tenant = p_tenant and s.turn_id = p_id;
end $$;

-- The end of a cancelled turn, in one transaction: what its open model step came to, the outcome p_tool_outcome for its
-- open tool steps, the history of what was said, the messages, the lane. What comes later for a tool is a late outcome.
create function conversation_worker.cancel_turn(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid, p_attempt int, p_step int, p_outcome jsonb,
  p_tool_outcome jsonb, p_session uuid, p_history jsonb, p_tokens int,
  p_writer uuid, p_topics text[], p_event_ids uuid[], p_headers jsonb, p_values bytea[])
  returns table (ord int, id bigint, fast boolean, prev_id bigint)
  language plpgsql set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
#variable_conflict use_column
begin
  -- First, because it takes the lane's lock, or raises SB001.
  perform conversation_worker.work_finish(p_tenant, p_key, p_owner, p_fence, p_id, 'cancelled');
  perform set_config('app.tenant', p_tenant, true);
  if p_outcome is not null then
    update conversation_worker.steps s set outcome = p_outcome, attempt = p_attempt, finished_at = clock_timestamp()
      where s.tenant = p_tenant and s.turn_id = p_id and s.step = p_step;
  end if;
  update conversation_worker.steps s
    set outcome = p_tool_outcome || jsonb_build_object(
          'duration_ms', round(extract(epoch from clock_timestamp() - s.started_at) * 1000)),
        wait_until = null, finished_at = clock_timestamp()
    where s.tenant = p_tenant and s.turn_id = p_id and s.kind = 'tool' and s.outcome is null;
  if p_history is not null then
    insert into conversation_worker.history (tenant, session_id, turn_id, messages, tokens)
    values (p_tenant, p_session, p_id, p_history, p_tokens);
  end if;
  return query select o.ord, o.id, o.fast, o.prev_id from messaging.outbox_put(
    p_writer, p_tenant, p_topics, array_fill(p_key, array[cardinality(p_topics)]), p_event_ids, p_headers, p_values) o;
end $$;

-- As before, with the lanes locked first: the end of a cancelled turn locks its lane and then changes its tool steps, and
-- the other order here would let the two wait for each other.
create or replace function conversation_worker.store_tool_outcomes(p_rows jsonb)
  returns table (ord int, fate text, attempt int)
  language plpgsql set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_row record;
  v_step conversation_worker.steps;
begin
  perform conversation_worker.work_lock(array_agg(e.row ->> 'tenant'), array_agg(e.row ->> 'key'))
    from jsonb_array_elements(p_rows) as e(row);
  for v_row in
    select e.ord, r.* from jsonb_array_elements(p_rows) with ordinality as e(row, ord)
    cross join lateral jsonb_to_record(e.row) as r(
      tenant text, key text, turn_id uuid, step int, call_id text, event_id uuid, outcome jsonb)
    order by r.tenant collate "C", r.key collate "C", e.ord
  loop
    perform set_config('app.tenant', v_row.tenant, true);
    select * into v_step from conversation_worker.steps s
      where s.tenant = v_row.tenant and s.turn_id = v_row.turn_id and s.step = v_row.step
        and s.kind = 'tool' and s.operation_key = v_row.call_id for update;
    ord := v_row.ord;
    attempt := v_step.attempt;
    if v_step.step is null then
      fate := 'unknown';
    elsif v_step.outcome is null then
      fate := 'applied';
      update conversation_worker.steps s
        set outcome = v_row.outcome, outcome_event = v_row.event_id, wait_until = null, finished_at = clock_timestamp()
        where s.tenant = v_row.tenant and s.turn_id = v_row.turn_id and s.step = v_row.step;
    elsif v_step.outcome_event is not distinct from v_row.event_id then
      fate := 'repeated';
    else
      fate := 'late';
      update conversation_worker.steps s set late_outcome = v_row.outcome
        where s.tenant = v_row.tenant and s.turn_id = v_row.turn_id and s.step = v_row.step;
    end if;
    return next;
  end loop;
end $$;

do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure from pg_proc p
    where p.pronamespace = 'conversation_worker'::regnamespace
      and p.proname in ('take_inbound', 'read_journal', 'cancel_turn')
  loop
    execute format('revoke execute on function %s from public', v_function);
    execute format('grant execute on function %s to signalbox_conversation_worker', v_function);
  end loop;
end $$;
revoke execute on function conversation_worker.claim_to_end from public;
grant execute on function conversation_worker.claim_to_end to signalbox_queue;
select app.protect_queue_functions('conversation_worker', 'signalbox_conversation_worker');

-- Down Migration
create or replace function conversation_worker.store_tool_outcomes(p_rows jsonb)
  returns table (ord int, fate text, attempt int)
  language plpgsql set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
declare
  v_row record;
  v_step conversation_worker.steps;
begin
  for v_row in
    select e.ord, r.* from jsonb_array_elements(p_rows) with ordinality as e(row, ord)
    cross join lateral jsonb_to_record(e.row) as r(
      tenant text, key text, turn_id uuid, step int, call_id text, event_id uuid, outcome jsonb)
    order by r.tenant collate "C", r.key collate "C", e.ord
  loop
    perform set_config('app.tenant', v_row.tenant, true);
    select * into v_step from conversation_worker.steps s
      where s.tenant = v_row.tenant and s.turn_id = v_row.turn_id and s.step = v_row.step
        and s.kind = 'tool' and s.operation_key = v_row.call_id for update;
    ord := v_row.ord;
    attempt := v_step.attempt;
    if v_step.step is null then
      fate := 'unknown';
    elsif v_step.outcome is null then
      fate := 'applied';
      update conversation_worker.steps s
        set outcome = v_row.outcome, outcome_event = v_row.event_id, wait_until = null, finished_at = clock_timestamp()
        where s.tenant = v_row.tenant and s.turn_id = v_row.turn_id and s.step = v_row.step;
    elsif v_step.outcome_event is not distinct from v_row.event_id then
      fate := 'repeated';
    else
      fate := 'late';
      update conversation_worker.steps s set late_outcome = v_row.outcome
        where s.tenant = v_row.tenant and s.turn_id = v_row.turn_id and s.step = v_row.step;
    end if;
    return next;
  end loop;
end $$;
drop function conversation_worker.cancel_turn, conversation_worker.read_journal, conversation_worker.take_inbound,
  conversation_worker.take_in_order, conversation_worker.claim_to_end, conversation_worker.turns_ahead;
