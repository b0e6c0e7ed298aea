import { formatStreamId, type StreamPosition } from '@signalbox/api/stream-id';

/** Whose task it is: what every statement and channel is about. */
export interface TaskRef {
  readonly tenant: string;
  readonly taskId: string;
}

/** An event as it is stored and sent; `data` is its JSON text. */
export interface TaskEvent {
  readonly at: StreamPosition;
  readonly id: string;
  readonly type: string;
  readonly data: string;
}

export function eventOf(at: StreamPosition, type: string, data: string): TaskEvent {
  return { at, id: formatStreamId(at), type, data };
}
