import { fault } from '@signalbox/faults/fault';
import { refusedUrl } from '@signalbox/http-client/address-guard';

export interface CallbackUrlRules {
  /** http too, for development. */
  readonly allowHttp: boolean;
  /** Hosts that may be called although they are private: WEBHOOK_ALLOWED_HOSTS. */
  readonly allowedHosts: readonly string[];
}

/**
 * Refuses a callback_url that can never be called, by its form alone: an early word to the caller. What counts is the
 * guard at the time of the call, which sees the addresses that the name resolves to then. VALIDATION_ERROR.
 */
export function checkCallbackUrl(text: string, { allowHttp, allowedHosts }: CallbackUrlRules): void {
  const refuse = (message: string) =>
    fault('VALIDATION_ERROR', 'the callback_url cannot be called', {
      errors: [{ path: '/callback_url', message }],
    });
  const url = URL.parse(text);
  // URL drops blanks and control characters around and inside: what is stored must be what was checked.
  if (url === null || /[\s\\]|\p{Cc}/u.test(text)) throw refuse('is no absolute URL');
  if (url.protocol !== 'https:' && !(allowHttp && url.protocol === 'http:')) throw refuse('must be https');
  if (!/^https?:\/\/[^/]/i.test(text)) throw refuse('is no absolute URL');
  const refused = refusedUrl(text, allowedHosts);
  if (refused === 'credentials') throw refuse('must not carry a user or a password');
  if (refused !== undefined) throw refuse(`names a host that is not public (${refused})`);
}
