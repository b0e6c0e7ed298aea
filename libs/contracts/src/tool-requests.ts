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

export const toolRequestsSchema = 'tool.requests.v1';
export const toolRequestsEvents = { 'tool.requested': ToolRequested } as const;
