import { Type } from 'typebox';
import { Attempt, CallId, Id, Instant, OpenObject, Step, ToolName } from './fields.ts';

/** A tool call to run. Past `deadline_at` it is answered without running. `arguments` are checked by the executor. */
export const ToolRequested = Type.Object({
  call_id: CallId,
  turn_id: Id,
  session_id: Id,
  step: Step,
  attempt: Attempt,
  tool: ToolName,
  arguments: OpenObject,
  deadline_at: Instant,
  idempotency_key: Type.String({ minLength: 1, maxLength: 256 }),
});
export type ToolRequested = Type.Static<typeof ToolRequested>;

/** Nobody waits for the call any more: it is not begun, or ended where it stands, with the outcome `cancelled`. */
export const ToolCancelRequested = Type.Object({
  call_id: CallId,
  turn_id: Id,
  session_id: Id,
  step: Step,
  tool: ToolName,
});
export type ToolCancelRequested = Type.Static<typeof ToolCancelRequested>;

export const toolRequestsSchema = 'tool.requests.v1';
export const toolRequestsEvents = {
  'tool.requested': ToolRequested,
  'tool.cancel_requested': ToolCancelRequested,
} as const;
