import { headerNames } from '@signalbox/contracts/headers';
import type { ToolRequested } from '@signalbox/contracts/tool-requests';
import { readValue } from '@signalbox/contracts/validate';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import type { WorkItem, WorkRow } from '@signalbox/work/worker';

/** What is stored of a request: its value, and who is to be answered. */
export interface CallPayload {
  readonly request: ToolRequested;
  /** Key of the request, and so of its answers: order by session holds on tool.results. */
  readonly record_key: string;
  readonly event_id: string;
  readonly reply_to?: string | undefined;
  readonly request_id?: string | undefined;
}

/** Versions of the payload that this release can run. */
export const payloadFormats = [1] as const;

/**
 * The work row of a request. Its id is the call's, so a request that comes again finds it, whatever its own event id.
 * Its lane is the call's too: a lane runs one item at a time, and calls of a session (parallel calls of one round, above
 * all) must run beside each other. They need no order: the worker that asked joins the answers by call.
 */
export function workRow(record: IntakeRecord): WorkRow {
  const request = readValue('tool.requests', 'tool.requested', record.value);
  if (request === undefined) {
    throw new Error('the runner hands over checked records only');
  }
  const payload: CallPayload = {
    request,
    record_key: record.key,
    event_id: record.eventId,
    reply_to: record.headers[headerNames.replyTo],
    request_id: record.headers[headerNames.requestId],
  };
  return {
    tenant: record.tenant,
    id: idOf(request.call_id),
    key: request.call_id,
    format: payloadFormats[0],
    payload,
    ...(record.traceparent === undefined ? {} : { traceparent: record.traceparent }),
  };
}

/** The payload of a claimed row, checked again: an older release may have written it. */
export function readPayload(item: Pick<WorkItem, 'payload'>): CallPayload | undefined {
  const { payload } = item;
  if (typeof payload !== 'object' || payload === null) {
    return undefined;
  }
  const fields = new Map<string, unknown>(Object.entries(payload));
  const request = readValue('tool.requests', 'tool.requested', fields.get('request'));
  const key = fields.get('record_key');
  const eventId = fields.get('event_id');
  if (request === undefined || typeof key !== 'string' || typeof eventId !== 'string') {
    return undefined;
  }
  return {
    request,
    record_key: key,
    event_id: eventId,
    reply_to: textOf(fields.get('reply_to')),
    request_id: textOf(fields.get('request_id')),
  };
}

/** A call id is 32 hex digits: a UUID without its hyphens, as Postgres reads it too. */
export function idOf(callId: string): string {
  return callId.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}
