import type { WorkItem } from '@signalbox/work/worker';
import type { StreamRecord } from './answer-stream.ts';
import type { OpenedTurn, TurnPayload } from './opened-turn.ts';
import type { JournalSummary } from './turn-journal.ts';

/**
 * What a client is told before the first piece of a run:
 *   - the first run of a turn: turn.started
 *   - a further run of the same attempt (back from a park): nothing, the deltas go on behind those already there
 *   - the first run of a later attempt: turn.resumed {keep_chars: 0}, then the finished steps' text as one delta
 */
export function openingOf(
  item: WorkItem,
  payload: TurnPayload,
  steps: OpenedTurn['steps'],
  summary: JournalSummary,
): StreamRecord[] {
  const turn = { turn_id: item.id, attempt: item.attempt };
  // A model step that this attempt has finished: its run has told the opening.
  const told = steps.some(
    ({ kind, outcome, attempt }) => kind === 'model' && outcome !== null && attempt === item.attempt,
  );
  if (told) return [];
  if (item.attempt === 1) {
    const value = { ...turn, persona_id: payload.persona_id, message_event_id: payload.event_id };
    return [{ eventType: 'turn.started', value }];
  }
  const resumed: StreamRecord = { eventType: 'turn.resumed', value: { ...turn, keep_chars: 0 } };
  if (summary.text === '') return [resumed];
  return [resumed, { eventType: 'assistant.delta', value: { ...turn, at: 0, text: summary.text } }];
}
