import { isFaultCode } from '@signalbox/faults/catalog';
import { type Fault, fault } from '@signalbox/faults/fault';

/** How long the service that owns an answer is waited for, before OWNER_TIMEOUT. */
export const ownerDeadlineMs = 2_000;

/** The fault that an owner has refused a question with. What this release does not know is a defect of ours. */
export function refusal({
  error_code: code,
  message,
}: {
  readonly error_code: string;
  readonly message: string;
}): Fault {
  return isFaultCode(code)
    ? fault(code, message)
    : fault('INTERNAL_ERROR', `refused with ${code}: ${message}`);
}

/** For an answer of the right topic that is none to the question. */
export function noAnswerTo(question: string, answer: string): Fault {
  return fault('INTERNAL_ERROR', `${question} was answered with ${answer}`);
}
